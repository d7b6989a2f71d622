"""The schema as it is read from the bindings: a module of the same form, with one of everything."""

from provider_schema import Bindings, object_type

MODULE = """
function thingRuleToHclTerraform(struct) {
    const attrs = {
        prefix: {
            value: cdktn.stringToHclTerraform(struct.prefix),
            isBlock: false,
            type: "simple",
            storageClassType: "string",
        },
    };
}
class ThingRuleOutputReference extends cdktn.ComplexObject {
    // prefix - computed: false, optional: false, required: true
    _prefix;
    get prefix() {
        return this.getStringAttribute('prefix');
    }
}
class ThingStatusOutputReference extends cdktn.ComplexObject {
    // code - computed: true, optional: false, required: false
    get code() {
        return this.getNumberAttribute('code');
    }
}
class Thing extends cdktn.TerraformResource {
    // arn - computed: true, optional: false, required: false
    get arn() {
        return this.getStringAttribute('arn');
    }
    // zones - computed: true, optional: false, required: false
    get zones() {
        return cdktn.Fn.tolist(this.getListAttribute('zones'));
    }
    // labels - computed: true, optional: false, required: false
    _labels = new cdktn.StringMap(this, "labels");
    // status - computed: true, optional: false, required: false
    _status = new ThingStatusList(this, "status", false);
    // sizes - computed: false, optional: true, required: false
    _sizes;
    get sizes() {
        return cdktn.Token.asNumberList(this.getNumberListAttribute('sizes'));
    }
    // rule - computed: false, optional: false, required: true
    _rule = new ThingRuleList(this, "rule", true);
    // only - computed: false, optional: true, required: false
    _only = new ThingRuleOutputReference(this, "only");
    // ingress - computed: true, optional: true, required: false
    _ingress = new ThingRuleList(this, "ingress", true);
    synthesizeHclAttributes() {
        const attrs = {
            sizes: {
                value: cdktn.listMapperHcl(cdktn.numberToHclTerraform, false)(this._sizes),
                isBlock: false,
                type: "set",
                storageClassType: "numberList",
            },
            rule: {
                value: cdktn.listMapperHcl(thingRuleToHclTerraform, true)(this._rule.internalValue),
                isBlock: true,
                type: "set",
                storageClassType: "ThingRuleList",
            },
            only: {
                value: thingRuleToHclTerraform(this._only.internalValue),
                isBlock: true,
                type: "list",
                storageClassType: "ThingRuleList",
            },
            ingress: {
                value: cdktn.listMapperHcl(thingRuleToHclTerraform, false)(this._ingress.internalValue),
                isBlock: true,
                type: "set",
                storageClassType: "ThingRuleList",
            },
        };
    }
}
"""


def schema():
    bindings = Bindings.parse(MODULE)
    return bindings.block("Thing", bindings.classes["Thing"])


def test_attributes_have_their_types_and_uses():
    assert schema()["attributes"] == {
        "arn": {"type": "string", "computed": True},
        "zones": {"type": ["set", "string"], "computed": True},
        "labels": {"type": ["map", "string"], "computed": True},
        "status": {"type": ["list", ["object", {"code": "number"}]], "computed": True},
        "sizes": {"type": ["set", "number"], "optional": True},
        "ingress": {"type": ["set", ["object", {"prefix": "string"}]], "computed": True, "optional": True},
    }


def test_blocks_nest_as_often_as_the_schema_lets_them():
    blocks = schema()["block_types"]
    rule = {"attributes": {"prefix": {"type": "string", "required": True}}, "block_types": {}}
    assert blocks == {
        "rule": {"nesting_mode": "set", "min_items": 1, "max_items": 0, "block": rule},
        "only": {"nesting_mode": "list", "min_items": 0, "max_items": 1, "block": rule},
    }


def test_a_blocks_type_holds_its_attributes_and_its_blocks():
    name, members = object_type(schema())
    assert name == "object"
    assert members["only"] == ["list", ["object", {"prefix": "string"}]]
    assert members["sizes"] == ["set", "number"]

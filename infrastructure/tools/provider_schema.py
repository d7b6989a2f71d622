"""The AWS provider's schema, read from its published CDK bindings, where the provider itself cannot be had.

The bindings are generated from the provider's own schema and keep all of it that concerns a configuration: each
attribute's type, whether it is required, optional or read only, and how blocks nest. What they don't keep: enumerations,
conflicts between arguments, which change forces a replacement.
"""

import io
import json
import re
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

CLASS = re.compile(r"^class (\w+) extends cdktn\.(\w+) \{\n(.*?)^\}", re.M | re.S)
ATTRIBUTE = re.compile(
    r"^ +// (\w+) - computed: (\w+), optional: (\w+), required: (\w+)\n(.*?)(?=^ +// |\Z)", re.M | re.S
)
"""The comment above each of a class's attributes, and the code up to the next."""
WRITER = re.compile(
    r"^ +(\w+): \{\n\s+value: (.*),\n\s+isBlock: \w+,\n\s+type: \"(\w+)\",\n\s+storageClassType: \"(\w+)\"", re.M
)
"""How an attribute that may be set is written as HCL; read-only ones have a getter alone."""
STRUCT = re.compile(r"(?<!\.)\b(\w+)ToHclTerraform")
GETTER = re.compile(r"return (.*)this\.get(\w*)Attribute\(")
COLLECTION = re.compile(r"()new cdktn\.(\w+)\(this, ")
CHILD = re.compile(r"new (\w+?)(OutputReference|List|Map)\(this, \"\w+\"(?:, (true|false))?\)")
USES = ("computed", "optional", "required")
SCALARS = {"string": "string", "number": "number", "boolean": "bool"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Bindings:
    """One resource's JavaScript module, taken apart."""

    classes: Mapping[str, str]
    writers: Mapping[str, str]
    """Bodies of the functions that write a nested structure as HCL, by the structure's name."""

    @classmethod
    def parse(cls, module: str) -> "Bindings":
        functions = re.findall(r"^function (\w+)ToHclTerraform\(struct\) \{\n(.*?)^\}", module, re.M | re.S)
        return cls(
            classes={name: body for name, _, body in CLASS.findall(module)},
            writers={_capital(name): body for name, body in functions},
        )

    def block(self, class_name: str, writer: str) -> dict:
        """The schema of a class; `writer` is the code that writes its attributes as HCL."""
        written = {name: rest for name, *rest in WRITER.findall(writer)}
        block: dict = {"attributes": {}, "block_types": {}}
        for name, uses, code in self._attributes(class_name, written):
            if name not in written:
                block["attributes"][name] = {"type": self._read_only(code), **uses}
                continue
            value, kind, storage = written[name]
            struct = STRUCT.search(value)
            if struct is None:
                block["attributes"][name] = {"type": _writable(kind, storage), **uses}
            else:
                child = self._child(_capital(struct[1]))
                # listMapperHcl's second argument tells blocks from attributes that hold objects.
                if ", false)(" in value:
                    block["attributes"][name] = {"type": _nested(kind, child), **uses}
                else:
                    block["block_types"][name] = _block_type(kind, "listMapperHcl" in value, child, "required" in uses)
        return block

    def _attributes(self, class_name: str, written: Mapping) -> Iterator[tuple[str, dict, str]]:
        found = ATTRIBUTE.findall(self.classes.get(class_name, ""))
        for name, *flags, code in found:
            yield name, {use: True for use, flag in zip(USES, flags, strict=True) if flag == "true"}, code
        for name in written.keys() - {name for name, *_ in found}:
            # Structures of the provider's own configuration have no class.
            yield name, {"optional": True}, ""

    def _child(self, struct: str) -> dict:
        return self.block(f"{struct}OutputReference", self.writers.get(struct, ""))

    def _read_only(self, code: str) -> object:
        if child := CHILD.search(code):
            struct, shape, is_set = child.groups()
            kind = {"OutputReference": "struct", "Map": "map"}.get(shape, "set" if is_set == "true" else "list")
            return _nested(kind, self._child(struct))
        getter = GETTER.search(code) or COLLECTION.search(code)
        if getter is None:
            return "dynamic"
        wrapper, kind = getter[1], getter[2]
        outer = re.search("(List|Map)$", kind)
        if outer is None:
            return SCALARS.get(kind.lower(), "dynamic")
        element = SCALARS.get(kind.removesuffix(outer[1]).lower(), "string")
        # The bindings turn sets into lists on their way out.
        return ["set" if "tolist" in wrapper else outer[1].lower(), element]


def _capital(name: str) -> str:
    return name[0].upper() + name[1:]


def _writable(kind: str, storage: str) -> object:
    element = SCALARS.get(re.sub("(List|Map)$", "", storage))
    if element is None:
        return "dynamic"
    return element if kind == "simple" else [kind, element]


def _nested(kind: str, child: Mapping) -> object:
    return object_type(child) if kind == "struct" else [kind, object_type(child)]


def _block_type(kind: str, repeats: bool, child: Mapping, required: bool) -> dict:
    if kind == "struct":
        return {"nesting_mode": "single", "min_items": 0, "max_items": 0, "block": child}
    return {"nesting_mode": kind, "min_items": int(required), "max_items": int(not repeats), "block": child}


def object_type(block: Mapping) -> list:
    """The type of a block's value, in Terraform's JSON notation of types."""
    types = {name: attribute["type"] for name, attribute in block["attributes"].items()}
    for name, nested in block["block_types"].items():
        child = object_type(nested["block"])
        types[name] = child if nested["nesting_mode"] == "single" else [nested["nesting_mode"], child]
    return ["object", types]


def read_schema(wheel: Path, types: Iterable[str]) -> dict:
    """Schemas of the provider and of those `types` that it has, out of the bindings' wheel.

    Data sources are named `data.TYPE`. Returns {"version", "provider", "resources", "data_sources"}. Takes about 5 s: the
    archive is compressed as a whole.
    """
    modules = {_module(name): name for name in types} | {"provider": "provider"}
    schema: dict = {"resources": {}, "data_sources": {}}
    for path, text in _files(wheel, modules):
        if path == "package/package.json":
            schema["version"] = json.loads(text)["cdktn"]["provider"]["version"]
            continue
        name, block = modules[path.split("/")[2]], _main_block(text)
        if name == "provider":
            schema["provider"] = block
        else:
            kind = "data_sources" if name.startswith("data.") else "resources"
            schema[kind][name.removeprefix("data.")] = block
    return schema


def _module(name: str) -> str:
    folder = name.replace("aws_", "", 1).replace("_", "-")
    return folder.replace("data.", "data-aws-")


def _main_block(module: str) -> dict:
    bindings = Bindings.parse(module)
    parents = ("TerraformResource", "TerraformDataSource", "TerraformProvider")
    main = next(name for name, parent, _ in CLASS.findall(module) if parent in parents)
    return bindings.block(main, bindings.classes[main].partition("synthesizeHclAttributes()")[2])


def _files(wheel: Path, modules: Iterable[str]) -> Iterator[tuple[str, str]]:
    wanted = {f"package/lib/{module}/index.js" for module in modules} | {"package/package.json"}
    with zipfile.ZipFile(wheel) as archive:
        inner = next(name for name in archive.namelist() if name.endswith(".jsii.tgz"))
        bundle = io.BytesIO(archive.read(inner))
    with tarfile.open(fileobj=bundle, mode="r|gz") as files:
        for member in files:
            if member.name in wanted and (file := files.extractfile(member)):
                yield member.name, file.read().decode()

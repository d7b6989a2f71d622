"""A stand-in for the AWS provider: its schema over Terraform's plugin protocol (version 6), and no AWS behind it.

Terraform itself checks a configuration against the schema: unknown resources and arguments, wrong types, missing and
read-only arguments. Whatever AWS would compute is unknown in a plan, and becomes a well-formed placeholder when applied.
A configuration that passes is *schema-checked*; only the real provider validates.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import msgpack
from placeholders import Account
from tf.gen import tfplugin_pb2 as plugin
from tf.gen import tfplugin_pb2_grpc as plugin_grpc

ADDRESS = "hashicorp/aws"
NESTING = {"single": 1, "list": 2, "set": 3, "map": 4}
UNKNOWN = msgpack.ExtType(0, b"\x00")
"""Terraform's encoding of a value that is known only after apply."""


class SchemaProvider(plugin_grpc.ProviderServicer):
    """Answers every request from the schema alone."""

    def __init__(self, schema: Mapping[str, Any]):
        self._schema = schema
        self._account = Account(id="000000000000", region="us-east-1")

    def GetProviderSchema(self, request, context):  # noqa: N802 (the protocol's names)
        return plugin.GetProviderSchema.Response(
            provider=_schema(self._schema["provider"]),
            resource_schemas={name: _schema(block) for name, block in self._schema["resources"].items()},
            data_source_schemas={name: _schema(block) for name, block in self._schema["data_sources"].items()},
        )

    def ValidateProviderConfig(self, request, context):  # noqa: N802
        return plugin.ValidateProviderConfig.Response()

    def ValidateResourceConfig(self, request, context):  # noqa: N802
        block = self._schema["resources"][request.type_name]
        return plugin.ValidateResourceConfig.Response(
            diagnostics=map(_refusal, read_only(block, _unpack(request.config)))
        )

    def ValidateDataResourceConfig(self, request, context):  # noqa: N802
        return plugin.ValidateDataResourceConfig.Response()

    def ConfigureProvider(self, request, context):  # noqa: N802
        config = _unpack(request.config)
        if config["allowed_account_ids"]:
            self._account = Account(id=config["allowed_account_ids"][0], region=config["region"])
        return plugin.ConfigureProvider.Response()

    def UpgradeResourceState(self, request, context):  # noqa: N802
        return plugin.UpgradeResourceState.Response(upgraded_state=plugin.DynamicValue(json=request.raw_state.json))

    def ReadResource(self, request, context):  # noqa: N802
        return plugin.ReadResource.Response(new_state=request.current_state)

    def PlanResourceChange(self, request, context):  # noqa: N802
        planned = _unpack(request.proposed_new_state)
        if planned is not None and _unpack(request.prior_state) is None:
            for name, attribute in self._schema["resources"][request.type_name]["attributes"].items():
                if planned.get(name) is None and attribute.get("computed"):
                    planned[name] = UNKNOWN
        return plugin.PlanResourceChange.Response(planned_state=_pack(planned))

    def ApplyResourceChange(self, request, context):  # noqa: N802
        state = _unpack(request.planned_state)
        if state is not None:
            attributes = self._schema["resources"][request.type_name]["attributes"]
            unknown = {name: attributes[name]["type"] for name, value in state.items() if value == UNKNOWN}
            known = {name: value for name, value in state.items() if name not in unknown}
            identity = hashlib.sha256(msgpack.packb(known)).hexdigest()[:17]
            state = known | self._account.resource(request.type_name, known, unknown, identity)
        return plugin.ApplyResourceChange.Response(new_state=_pack(state))

    def ReadDataSource(self, request, context):  # noqa: N802
        state = _unpack(request.config)
        attributes = self._schema["data_sources"][request.type_name]["attributes"]
        unknown = {
            name: attribute["type"]
            for name, attribute in attributes.items()
            if attribute.get("computed") and state.get(name) is None
        }
        return plugin.ReadDataSource.Response(
            state=_pack(state | self._account.data_source(request.type_name, unknown))
        )

    def StopProvider(self, request, context):  # noqa: N802
        return plugin.StopProvider.Response()


def read_only(block: Mapping, values: Mapping[str, Any]) -> Iterator[str]:
    """Names of the attributes that a configuration sets although AWS alone does: Terraform leaves those to the provider."""
    for name, attribute in block["attributes"].items():
        if not attribute.get("optional") and not attribute.get("required") and values.get(name) is not None:
            yield name
    for name, nested in block["block_types"].items():
        inside = values.get(name) or []
        for value in inside if isinstance(inside, list) else [inside]:
            if isinstance(value, dict):
                yield from read_only(nested["block"], value)


def _refusal(name: str) -> plugin.Diagnostic:
    return plugin.Diagnostic(
        severity=plugin.Diagnostic.ERROR, summary="Read-only attribute", detail=f"{name} is read-only: AWS decides it."
    )


def _schema(block: Mapping) -> plugin.Schema:
    return plugin.Schema(version=0, block=_block(block))


def _block(block: Mapping, inside_set: bool = False) -> plugin.Schema.Block:
    attributes = [
        plugin.Schema.Attribute(
            name=name,
            # A set's elements are compared by value, so Terraform wants their types known.
            type=json.dumps("string" if inside_set and attribute["type"] == "dynamic" else attribute["type"]).encode(),
            **{use: attribute.get(use, False) for use in ("required", "optional", "computed")},
        )
        for name, attribute in block["attributes"].items()
    ]
    nested = [
        plugin.Schema.NestedBlock(
            type_name=name,
            block=_block(kind["block"], inside_set or kind["nesting_mode"] == "set"),
            nesting=NESTING[kind["nesting_mode"]],
            min_items=kind["min_items"],
            max_items=kind["max_items"],
        )
        for name, kind in block["block_types"].items()
    ]
    return plugin.Schema.Block(version=0, attributes=attributes, block_types=nested)


def _unpack(value: plugin.DynamicValue) -> Any:
    return msgpack.unpackb(value.msgpack, raw=False, strict_map_key=False)


def _pack(value: Any) -> plugin.DynamicValue:
    return plugin.DynamicValue(msgpack=msgpack.packb(value, use_bin_type=True))


@contextmanager
def serving(schema: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """Serves the schema on a private socket; yields the environment with which Terraform finds it there.

    Terraform attaches to a running provider, so nothing is installed, and no lock file ever holds this one's hashes.
    """
    server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", -1)])
    plugin_grpc.add_ProviderServicer_to_server(SchemaProvider(schema), server)
    with tempfile.TemporaryDirectory() as folder:
        socket = Path(folder) / "provider.sock"
        server.add_insecure_port(f"unix://{socket}")
        server.start()
        address = {"Network": "unix", "String": str(socket)}
        plug = {"Protocol": "grpc", "ProtocolVersion": 6, "Pid": os.getpid(), "Test": True, "Addr": address}
        yield {"TF_REATTACH_PROVIDERS": json.dumps({ADDRESS: plug})}
        server.stop(grace=None).wait()

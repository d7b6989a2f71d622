"""Which artifacts an execution in AWS starts from: those that its starter names, else the environment's, else champions."""

from components.shared.contracts.errors import UsageError
from components.shared.performance.model_registry import CHAMPION, Registry, holder
from pipelines.compilers.kubeflow import CompiledDag
from pipelines.engines.champions import BASES, imported, serving_tier


def remote_inputs(dag: CompiledDag, registry: Registry) -> dict[str, str]:
    """The S3 URI of each artifact that the DAG imports, by parameter.

    They end in a slash: SageMaker takes every object whose key begins so, and `v1` would be `v10` too. Raises UsageError
    for a parameter that nothing fills, and for a place that is not on S3.
    """
    found = {}
    for name in imported(dag):
        if name in dag.settings.parameters:
            uri = str(dag.settings.parameters[name])
        elif "defaultValue" in dag.parameters[name]:
            uri = str(dag.parameters[name]["defaultValue"])
        else:
            uri = _champion(dag, registry, name)
        if not uri.startswith("s3://"):
            raise UsageError(f"{name} = {uri!r} is not on S3: copy it there and add --set {name}=s3://...")
        found[name] = f"{uri.rstrip('/')}/"
    return found


def _champion(dag: CompiledDag, registry: Registry, name: str) -> str:
    """Where the policy lies that serves the parameter's tier; the base's place where nothing serves."""
    tier, settings = serving_tier(dag, name), dag.settings
    serving = holder(registry.versions(str(settings.defaults["model_type"]), tier), CHAMPION)
    if serving:
        return serving.source
    given = (settings.parameters[base] for base in BASES.get(name, ()) if base in settings.parameters)
    return str(next(given, None) or settings.uri(name, tier))

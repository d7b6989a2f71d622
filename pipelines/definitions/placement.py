"""Where a task runs and how often it is tried again, on a cluster: KFP's own settings, and kfp-kubernetes' for the rest."""

from kfp.dsl.pipeline_task import PipelineTask

from components.shared.contracts.environment import CHECKPOINT_INTERVAL, STRATEGY
from components.shared.contracts.stage import Job, StageSpec
from components.shared.performance.mlflow_store import TRACKING_URI
from pipelines.job_settings import Instance, JobSettings, Kubernetes, Retry

MAX_BACKOFF = "3600s"
NODES = "srl-rlvr/nodes"
"""Annotation of a pod: how many machines its tier gives the task."""


def tried_again(task: PipelineTask, retry: Retry) -> None:
    """Every engine that retries reads this policy."""
    task.set_retry(
        num_retries=retry.attempts,
        backoff_duration=f"{retry.interval_s}s",
        backoff_factor=retry.backoff,
        backoff_max_duration=MAX_BACKOFF,
    )


def told(task: PipelineTask, spec: StageSpec, job: JobSettings, tracking_uri: str | None) -> None:
    """Environment variables that do not depend on the execution, so that no cache is missed for them."""
    if job.job == Job.TRAINING:
        task.set_env_variable(STRATEGY, job.strategy)
        if job.checkpoint_interval_s is not None:
            task.set_env_variable(CHECKPOINT_INTERVAL, str(job.checkpoint_interval_s))
    if not spec.outputs and tracking_uri is not None:
        task.set_env_variable(TRACKING_URI, tracking_uri)


def placed(task: PipelineTask, spec: StageSpec, instance: Instance, nodes: int, cluster: Kubernetes) -> None:
    """Ask the cluster for what the tier's instance type has, less what the node keeps for itself."""
    from kfp import kubernetes

    if nodes > 1:
        # A task is one pod. How a cluster starts several that work together is its own affair: it reads this.
        kubernetes.add_pod_annotation(task, NODES, str(nodes))
    task.set_cpu_limit(str(max(1, instance.vcpus - 1)))
    task.set_memory_limit(f"{round(0.9 * instance.memory_gib)}Gi")
    if instance.gpus:
        task.set_accelerator_type(cluster.gpu_resource).set_accelerator_limit(instance.gpus)
        for label, value in cluster.gpu_node_selector.items():
            kubernetes.add_node_selector(task, label, value)
        for toleration in cluster.gpu_tolerations:
            kubernetes.add_toleration(task, **toleration)
    for variable, reference in cluster.secrets.get(spec.name, {}).items():
        secret, _, key = reference.partition("/")
        kubernetes.use_secret_as_env(task, secret_name=secret, secret_key_to_env={key: variable})

"""The keys of Kubernetes, and its extra."""

from cntk_pipeline.clusters.extras import Extra
from cntk_pipeline.clusters.options import Address, ClusterOptions

EXTRA = Extra("kubernetes", ("kr8s", "httpx"))


class KubernetesOptions(ClusterOptions):
    """The keys of ``kind = "kubernetes"``.

    Attributes
    ----------
    image : str, optional
        The image of the containers.
    namespace : str, optional
        The namespace of all objects; by default kubectl's own.
    volume_claim : str, optional
        The claim that holds the run directory; leave it out where that is in a bucket.
    service_account : str
        The service account of the driver, with its permissions.
    secret : str
        A Secret whose entries all pods have as environment variables, such as the credentials of a bucket;
        deploy/kubernetes has both.
    address : str, optional
        The address of a port that is forwarded to the scheduler, for a driver that runs outside.
    """

    image: str | None = None
    namespace: str | None = None
    volume_claim: str | None = None
    service_account: str = "cntk-driver"
    secret: str = "cntk-s3"
    address: Address | None = None

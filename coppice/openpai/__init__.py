"""The four roles as jobs of a cluster: OpenPAI's job JSON (v1) and protocol YAML (v2), Kubernetes manifests,
and the client of OpenPAI's REST server."""

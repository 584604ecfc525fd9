"""Hand over code and content: bundles, versions, deployments, secrets at rest."""

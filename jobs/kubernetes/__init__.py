"""KubeRay manifests: a cluster for a recipe, a job that brings its own, and schedules."""

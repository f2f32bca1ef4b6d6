"""Commands as jobs on a cluster: Ray Jobs, and files for `ray up`, KubeRay and Slurm."""

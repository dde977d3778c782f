"""Workers and drivers in jobs of SLURM."""

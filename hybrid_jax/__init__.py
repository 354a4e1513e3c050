"""hybrid_jax: robot policies trained from simulation and reality at once."""

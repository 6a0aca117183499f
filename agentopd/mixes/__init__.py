"""How the distillation and the reinforcement-learning channel share a step."""

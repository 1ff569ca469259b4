"""How a model's step is computed: operator by operator (models.decoder), or by larger operators of the CPU."""

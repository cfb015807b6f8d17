"""Results of benchmark clients, a module a client: ``reads`` says whether a record is its, ``result`` reads it."""

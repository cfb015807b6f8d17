"""What a layer is made of, one module a kind. See ``block`` for what each answers, CONTRIBUTING.md for adding one."""

"""What a file says: YAML that can only describe, quantities with units and sources, checked against a form."""

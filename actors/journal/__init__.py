"""The journal: small files, each written whole or not at all."""

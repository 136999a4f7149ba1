"""Settings: frozen dataclasses, each validated once where it is made. Knows no layer above."""

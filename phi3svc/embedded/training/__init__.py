"""How the embedded checkpoints are made: text generators, tokenizer, training loop.

`python -m phi3svc.embedded.training.train --out DIR [NAME ...]` makes them anew. Nothing here is
imported by the service; transformers, a development dependency, is needed to train.
"""

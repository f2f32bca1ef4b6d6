"""The learning system: data, frozen backbones, methods, stages, evaluation, storage."""

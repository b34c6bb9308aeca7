"""Networks that train: models, optimizer, loop, session, checkpoint."""

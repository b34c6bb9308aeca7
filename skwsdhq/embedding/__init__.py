"""From features to unit vectors near their tags' concepts."""

"""A proxy before an OpenAI-compatible server that judges what goes up and what comes down."""

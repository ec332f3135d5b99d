"""What all unit tests share."""

from hypothesis import settings

# an example may take as long as the machine lets it wait: what is slow is measured by scripts/bench
settings.register_profile("kubetrace", deadline=None)
settings.load_profile("kubetrace")

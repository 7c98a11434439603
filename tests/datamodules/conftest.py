from hypothesis import settings

# No deadline: a busy machine is no failure.
settings.register_profile("datamodules", deadline=None, database=None)
settings.load_profile("datamodules")

"""Sources of articles; every module here is imported to find the sources that it registers."""

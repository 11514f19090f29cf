"""The documentation is held to the code: generated pages are current, commands run, links and names lead somewhere."""

"""``docs/troubleshooting.md``: every error that the program can print, read from its own code.

    tree      the modules, and what their names stand for
    words     what an expression says: its texts, a name for each value
    sites     every place that makes an error: the family of bench/errors.py, faults of build
              steps, refused options, doctor's findings, the toolchain's rules
    scripts   the same of the Makefile, the Dockerfile and the shell scripts
    tables    what other programs' words are answered with
    areas     where on the page an error stands
    page      all of it as Markdown; advice.toml: what a person has added

``python -m bench.host.troubleshooting`` writes the page.
"""

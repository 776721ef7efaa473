"""The demo's trace in Arize Phoenix, as pictures. `python -m examples.phoenix FOLDER`."""

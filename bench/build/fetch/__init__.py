"""Sources that arrive: a recursive checkout and a download, verified, resumed, patient."""

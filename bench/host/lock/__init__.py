"""What every image is made from, resolved anew, compared with what is locked, and written at once.

part       what resolving one part of the lock gave: changes, drift, what could not be asked
base       the profiles' bases: the digest that each tag has now
registry   an image registry's HTTP API v2: a tag's digest, a repository's tags
sources    TVM's tag -> its commit; a commit -> its gitlinks, nested ones too
archives   an address -> the sha256 of what is there now
weights    what a hub states of the weights by name
python     the hashed locks, resolved in a copy of docker/locks
agreement  what can be held against each other without any network
packages   the Debian packages of an image: its manifest, and what differs
web        one question to a web server, by the caller's proxies, CA bundle and mirrors
edit       a value in pins.toml, every other character as it was
write      several files, all or none
verbs      `invoke lock`
index      a package index: which releases there are
proposals  newer pins, each put to the solver
newer      `invoke update`
frozen     what a build would take that is not locked
"""

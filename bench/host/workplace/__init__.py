"""A place to work in: the image of a profile with tools, and what of the host goes into it.

person      who works: uid, home, and the name of their volumes
choice      what they asked for last, kept beside .devcontainer/devcontainer.json
image       the Dockerfile's target `dev`: the job's image, tools, TVM's tree, the user
lent        git's identity, ssh's known hosts and agent, laid out to be mounted
volumes     what outlives a container: TVM's tree, clones, ccache
container   devcontainer.json -> the `docker run` of `invoke shell`
inside      what is done once in a new container: the private repository
traced      a program that gdb may attach to
verbs       `invoke devcontainer`, `invoke shell`
"""

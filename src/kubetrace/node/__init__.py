"""All reading of the node's files; each look gives facts (attribution/facts.py), and no conclusion is drawn here.

    host.py        where the node's files are, seen from this process, and how its clocks and names read
    installed.py   where its runtimes and kubelets keep what, by what runs, what is mounted and what is configured
    reading.py     files that others write, read to a limit
    files.py       every look at them, at the start and at each change
    containerd.py  bundles and databases of container runtimes
    bolt.py        the file of such a database
    roots.py       roots of containers that are no overlay
    ancestry.py    in which container a container runs whose cgroup does not say it
    storage.py     the lists of containers-storage, which CRI-O has
    layers.py      from an overlay's directories to the layers of an image
    cri.py         a runtime's own socket, when asked for
    kubelet_dir.py names and volumes in the kubelet's directory
    logs.py        names in the log directories
    lookup.py      whose a number, an id or a path is; pod_files.py: what belongs to a pod
    named.py       the names of pods, for who types one

And for how much is where:

    filesystems.py      which file systems there are, and how full
    kubelet_settings.py what a kubelet was told about full disks
    image_store.py      all that a containerd's databases have
    pod_directories.py  which directories are some pod's
    open_files.py       files without a name that are open
    image_list.py       the images, with what each takes and would free
    layer_files.py      every name in one layer, as overlayfs takes it
    pod_page.py         all of a pod; node_page.py: the node as a whole
    walks.py            what only a look at every file tells, by a process of its own

Whatever is read was written by others: it may be half there, or hostile.
"""

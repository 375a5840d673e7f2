# Where a repository is, as far as its URL, the datasets and the mounts of this host show.
{ lib, config }:
let
  names = import ../storage/names.nix { inherit lib; };
  thisHost = [
    "localhost"
    "127.0.0.1"
    "[::1]"
    "::1"
    config.networking.hostName
  ];

  networkFileSystems = [
    "9p"
    "ceph"
    "cifs"
    "fuse.sshfs"
    "glusterfs"
    "nfs"
    "nfs4"
    "smb3"
    "sshfs"
  ];

  placesForMounts = [
    "/media"
    "/mnt"
    "/net"
    "/run/media"
  ];

  declared =
    if config.modules.storage.datasets.enable then
      import ../storage/declared.nix { inherit lib config; }
    else
      [ ];
  mounted = lib.groupBy (dataset: dataset.path) (
    lib.filter (dataset: dataset.path != null) declared
  );
  # The path and all directories above it, from the root on.
  directoriesOf =
    path: map (directory: "/${directory}") (names.ancestorsOf (lib.removePrefix "/" path)) ++ [ path ];

  # The file system that a path is on, of those that are declared: the one mounted deepest.
  fileSystemOf =
    path:
    let
      holds = fileSystem: fileSystem.mountPoint == "/" || names.isAtOrBelow fileSystem.mountPoint path;
      deepestFirst = lib.sort (
        a: b: lib.stringLength a.mountPoint > lib.stringLength b.mountPoint
      ) (lib.attrValues config.fileSystems);
    in
    lib.findFirst holds null deepestFirst;

  # "nas:/export", "//nas/share", "user@nas:/srv".
  serverOf =
    device:
    let
      parts = builtins.match "(//)?([^/@]*@)?(\\[[^]]*]|[^/:]+)(:|/).*" device;
    in
    if parts == null then device else lib.elemAt parts 2;

  remoteHost =
    url:
    let
      sftp = builtins.match "sftp:(//)?([^/@]*@)?(\\[[^]]*]|[^/:]+)[:/].*" url;
      http = builtins.match "(rest|s3):(https?://)?([^/@]*@)?(\\[[^]]*]|[^/:]+)(:[0-9]+)?(/.*)?" url;
    in
    if sftp != null then
      lib.elemAt sftp 2
    else if http != null then
      lib.elemAt http 3
    else
      # Of the other services the name says where it is.
      lib.head (lib.splitString ":" url);
in
rec {
  isDirectory = url: lib.hasPrefix "/" url || lib.hasPrefix "local:/" url;
  directoryOf = url: lib.removePrefix "local:" url;

  # Whether a name of a host, or of a place, is this one.
  isThisHost = place: lib.elem place thisHost;

  # Whether a repository is known to be on this host. Where only the root file system is declared, a
  # directory in which people mount things may be anywhere.
  isHere =
    repository:
    let
      directory = directoryOf repository.url;
      fileSystem = fileSystemOf directory;
      isDeclared = fileSystem != null && fileSystem.mountPoint != "/";
    in
    if repository.location != null then
      isThisHost repository.location
    else if !isDirectory repository.url then
      isThisHost (remoteHost repository.url)
    else if repository.mountPoint == "/" || datasetOf directory != null then
      true
    else if isDeclared then
      !lib.elem fileSystem.fsType networkFileSystems
      || fileSystem.device != null && isThisHost (serverOf fileSystem.device)
    else
      !lib.any (above: names.isAtOrBelow above directory) placesForMounts;

  # The declared dataset that a path is on, or null: the one mounted deepest.
  datasetOf =
    path:
    let
      found = lib.concatMap (directory: mounted.${directory} or [ ]) (directoriesOf path);
    in
    if found == [ ] then null else (lib.last found).dataset;

  # The pool that a path is on, as far as the declared datasets say.
  poolOf =
    path:
    let
      dataset = datasetOf path;
    in
    if dataset == null then null else names.poolOf dataset;
}

# The open ports of a host, one line each: "tcp 5432", or "tcp 5432 on wg0" where only an interface is meant.
{ lib }:
firewall:
let
  lines =
    where: ports:
    map (port: "tcp ${toString port}${where}") ports.allowedTCPPorts
    ++ map (port: "udp ${toString port}${where}") ports.allowedUDPPorts;
in
lib.optionals firewall.enable (
  lines "" firewall
  ++ lib.concatLists (
    lib.mapAttrsToList (name: interface: lines " on ${name}" interface) firewall.interfaces
  )
)

{
  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";
    # Where this template came from.
    backstay.url = "path:/path/to/backstay";
    backstay.inputs.nixpkgs.follows = "nixpkgs";
  };

  outputs =
    { nixpkgs, backstay, ... }:
    {
      nixosConfigurations.db1 = nixpkgs.lib.nixosSystem {
        modules = [
          backstay.nixosModules.default
          ./configuration.nix
          # Disks, boot loader and network of the machine: `nixos-generate-config` writes it.
          ./hardware-configuration.nix
        ];
      };
    };
}

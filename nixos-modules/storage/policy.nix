# What a snapshot policy says.
{ lib }:
rec {
  # How many snapshots of each kind, without the settings that are no counts.
  counts = retention: lib.attrValues (removeAttrs retention [ "frequentPeriodMinutes" ]);

  # A dataset that says nothing about its snapshots is only replicated. sanoid would give it the
  # policy that it has built in.
  hasPolicy =
    dataset:
    dataset.useTemplate != [ ] || lib.any (count: count != null) (counts dataset.retention);
}

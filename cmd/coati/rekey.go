package main

import (
	"github.com/spf13/cobra"

	"coati/gateway/control"
)

func newRekey() *cobra.Command {
	return &cobra.Command{
		Use:   "rekey NAME[/CHILD]",
		Short: "give a tunnel's IKE SA, or a child, new keys",
		Args:  cobra.ExactArgs(1),
		RunE:  onTarget((*control.Client).Rekey, "rekeying"),
	}
}

package main

import (
	"github.com/spf13/cobra"

	"coati/gateway/control"
)

func newUp() *cobra.Command {
	return &cobra.Command{
		Use:   "up NAME[/CHILD]",
		Short: "bring a tunnel or child up and wait for it",
		Args:  cobra.ExactArgs(1),
		RunE:  onTarget((*control.Client).Up, "up"),
	}
}

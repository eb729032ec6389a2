package main

import (
	"github.com/spf13/cobra"

	"coati/gateway/control"
)

func newDown() *cobra.Command {
	return &cobra.Command{
		Use:   "down NAME[/CHILD]",
		Short: "take a tunnel or child down and tell the peer",
		Long: `Takes a tunnel or child down and tells the peer. Its policies and routes stay: the next packet for it
brings it up again, unless the tunnel only listens.`,
		Args: cobra.ExactArgs(1),
		RunE: onTarget((*control.Client).Down, "down"),
	}
}

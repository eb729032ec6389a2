package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"coati/gateway"
	"coati/policy/config"
)

func newCheck() *cobra.Command {
	c := &cobra.Command{
		Use:   "check FILE...",
		Short: "find every fault in configuration files",
		Long: `Reads the files as one configuration, as coati run would, and prints every fault as file:line: message. A file
is Coati's own, a script of setkey's, a racoon.conf, an ipsec.conf or an ipsec.secrets; what of another program's file
was not carried over is said as "lost". What a run would do to this machine, or would miss in it, is said in notes.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, files []string) error {
			from, err := newSources(cmd, files)
			if err != nil {
				return err
			}
			c, script, faults := from.load()
			for _, f := range faults {
				fmt.Fprintln(cmd.ErrOrStderr(), f)
			}
			if config.Failed(faults) {
				return unusable(nil)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "ok: %s\n", contents(c, script))
			for _, text := range gateway.Advise(c) {
				fmt.Fprintf(cmd.ErrOrStderr(), "note: %s\n", text)
			}
			return failed(err)
		},
	}
	formatFlags(c)
	return c
}

package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newReload() *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "read the configuration again, print what changes, and change only that",
		Long: `Makes the daemon read its configuration files again. What is the same goes on undisturbed. If there is any
fault in them nothing changes at all, and the faults are printed. Timers change under the living SAs; what has to be
negotiated anew is named with a "!". SIGHUP does the same.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := client(cmd).Reload(cmd.Context())
			if err != nil {
				return failed(err)
			}
			for _, f := range r.Faults {
				fmt.Fprintln(cmd.ErrOrStderr(), f)
			}
			if r.Failed {
				return unusable(fmt.Errorf("the configuration has faults: nothing was changed"))
			}
			for _, line := range r.Plan {
				fmt.Fprintln(cmd.OutOrStdout(), line)
			}
			if len(r.Plan) == 0 {
				fmt.Fprintln(cmd.OutOrStdout(), "nothing to change")
			}
			return nil
		},
	}
}

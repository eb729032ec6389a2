package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"coati/gateway"
)

func newVersion() *cobra.Command {
	c := &cobra.Command{
		Use:   "version",
		Short: "say what this program was built from",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := gateway.BuildVersion()
			if asJSON, _ := cmd.Flags().GetBool("json"); asJSON {
				return failed(json.NewEncoder(cmd.OutOrStdout()).Encode(v))
			}
			text := fmt.Sprintf("coati %s, %s", v.Version, v.Go)
			if v.Commit != "" {
				text += ", commit " + v.Commit
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), text)
			return failed(err)
		},
	}
	c.Flags().Bool("json", false, "print json")
	return c
}

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func newMan() *cobra.Command {
	return &cobra.Command{
		Use:    "man DIR",
		Short:  "write the manual pages of all commands into a folder",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return failed(err)
			}
			root := cmd.Root()
			for _, c := range append([]*cobra.Command{root}, root.Commands()...) {
				// The page of setkey is written by hand: docs/coati-setkey.8.
				if c.Hidden || slices.Contains([]string{"help", "completion", "setkey"}, c.Name()) {
					continue
				}
				name := strings.ReplaceAll(c.CommandPath(), " ", "-") + ".8"
				if err := os.WriteFile(filepath.Join(args[0], name), manualPage(c), 0o644); err != nil {
					return failed(err)
				}
			}
			return nil
		},
	}
}

// manualPage is a command in man(7). It has no date, so that the same program writes the same page.
func manualPage(c *cobra.Command) []byte {
	var b bytes.Buffer
	name := strings.ReplaceAll(c.CommandPath(), " ", "-")
	fmt.Fprintf(&b, ".TH %s 8 \"\" Coati \"System administration\"\n", strings.ToUpper(roff(name)))
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", roff(name), roff(c.Short))
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.B %s\n", roff(c.UseLine()))
	if c.Long != "" {
		fmt.Fprintf(&b, ".SH DESCRIPTION\n%s\n", roff(c.Long))
	}
	manualOptions(&b, "OPTIONS", c.NonInheritedFlags())
	manualOptions(&b, "OPTIONS OF ALL COMMANDS", c.InheritedFlags())
	if c.HasAvailableSubCommands() {
		fmt.Fprintf(&b, ".SH COMMANDS\n")
		for _, s := range c.Commands() {
			if s.IsAvailableCommand() && s.Name() != "help" {
				fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(s.Use), roff(s.Short))
			}
		}
	}
	fmt.Fprintf(&b, ".SH EXIT STATUS\n.TP\n0\ndone\n.TP\n1\nfailed\n.TP\n2\nbad usage or configuration\n")
	var also []string
	if c.HasParent() {
		also = append(also, "coati")
		for _, s := range c.Parent().Commands() {
			if s != c && s.IsAvailableCommand() && s.Name() != "help" {
				also = append(also, "coati-"+s.Name())
			}
		}
	} else {
		for _, s := range c.Commands() {
			if s.IsAvailableCommand() && s.Name() != "help" {
				also = append(also, "coati-"+s.Name())
			}
		}
	}
	fmt.Fprintf(&b, ".SH SEE ALSO\n")
	for i, a := range also {
		comma := ","
		if i == len(also)-1 {
			comma = ""
		}
		fmt.Fprintf(&b, ".BR %s (8)%s\n", roff(a), comma)
	}
	return b.Bytes()
}

func manualOptions(b *bytes.Buffer, title string, flags *pflag.FlagSet) {
	if !flags.HasAvailableFlags() {
		return
	}
	fmt.Fprintf(b, ".SH %s\n", title)
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		kind, text := pflag.UnquoteUsage(f)
		names := "--" + f.Name
		if f.Shorthand != "" {
			names = "-" + f.Shorthand + ", " + names
		}
		fmt.Fprintf(b, ".TP\n\\fB%s\\fR", roff(names))
		if kind != "" {
			fmt.Fprintf(b, " \\fI%s\\fR", roff(kind))
		}
		fmt.Fprintf(b, "\n%s\n", roff(text))
	})
}

// roff keeps text from being read as requests or escapes; an empty line begins a paragraph.
func roff(s string) string {
	s = strings.ReplaceAll(s, `\`, `\e`)
	s = strings.ReplaceAll(s, "-", `\-`)
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		switch {
		case l == "" && len(lines) > 1:
			lines[i] = ".PP"
		case strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'"):
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"coati/gateway/control"
	"coati/policy/legacy"
)

// links are other programs by whose names this one may be called.
var links = []string{"setkey", "racoonctl", "ipsec"}

// asLink are the arguments of a program that was called by such a name: those of the sub-command.
func asLink(args []string) []string {
	if name := filepath.Base(args[0]); slices.Contains(links, name) {
		return append([]string{name}, args[1:]...)
	}
	return args[1:]
}

const standardInput = "<stdin>"

func newSetkey() *cobra.Command {
	c := &cobra.Command{
		Use:   "setkey -f FILE | -c | -D | -DP | -F | -FP",
		Short: "add, delete and show associations and policies in setkey's language",
		Long: `Reads the language of setkey(8) and performs it on the running daemon: a script as a whole, or nothing of it.
A fault is told as file:line: directive: message. -D and -DP print what setkey prints, of negotiated
associations and policies too; keys are shown to root alone. A link named setkey does the same.

It exits with 0, or with 1 whatever fails, as setkey does. See coati-setkey(8) for the language.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return failed(errors.New("recorded PF_KEY messages are not read: name a script with -f"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return setkey(cmd) },
	}
	f := c.Flags()
	f.StringP("file", "f", "", "perform the script in `FILE`; - is standard input")
	f.BoolP("stdin", "c", false, "perform the script on standard input")
	f.BoolP("dump", "D", false, "show the associations; with -P the policies")
	f.BoolP("flush", "F", false, "delete all associations that scripts added; with -P the policies")
	f.BoolP("policies", "P", false, "with -D and -F: policies")
	f.BoolP("all", "a", false, "with -D: associations that have ended too")
	f.BoolP("ports", "p", false, "with -D: ports")
	f.BoolP("no-action", "n", false, "only look for faults")
	f.BoolP("verbose", "v", false, "accepted, and changes nothing")
	f.BoolP("rfc", "r", false, "accepted: policies are always as the RFC has them")
	f.BoolP("no-sockets", "N", false, "accepted: there are no policies of single sockets")
	f.BoolP("kernel", "k", false, "refused: there is no kernel's form of policies")
	f.BoolP("loop", "l", false, "refused: use watch(1)")
	f.BoolP("promiscuous", "x", false, "refused: there are no PF_KEY messages")
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return failed(fmt.Errorf("%w: see coati setkey --help", err)) })
	return c
}

func setkey(cmd *cobra.Command) error {
	set := func(name string) bool { on, _ := cmd.Flags().GetBool(name); return on }
	for name, why := range map[string]string{
		"kernel": "-k: policies are always as the RFC has them, an in policy covers what is forwarded", "loop": "-l: use watch(1)",
		"promiscuous": "-x: there are no PF_KEY messages to be seen",
	} {
		if set(name) {
			return failed(errors.New(why))
		}
	}
	s, err := theScript(cmd, set)
	if err != nil {
		return failed(err)
	}
	// Here first, so that a fault is found without a daemon.
	if _, faults := legacy.ParseSetkey(s.File, []byte(s.Text)); faults != nil {
		for _, f := range faults {
			fmt.Fprintln(cmd.ErrOrStderr(), f)
		}
		return failed(errors.New("the script has faults: nothing was changed"))
	}
	if set("no-action") {
		return nil
	}
	d, err := client(cmd).Script(cmd.Context(), s)
	if err != nil {
		return failed(err)
	}
	for _, f := range d.Faults {
		fmt.Fprintln(cmd.ErrOrStderr(), f)
	}
	if len(d.Faults) > 0 {
		return failed(errors.New("the script has faults: nothing was changed"))
	}
	_, err = io.WriteString(cmd.OutOrStdout(), d.Output)
	return failed(err)
}

// theScript is what the options ask for.
func theScript(cmd *cobra.Command, set func(string) bool) (control.Script, error) {
	s := control.Script{All: set("all"), Ports: set("ports")}
	file, _ := cmd.Flags().GetString("file")
	asked := 0
	for _, on := range []bool{file != "", set("stdin"), set("dump"), set("flush")} {
		if on {
			asked++
		}
	}
	if asked != 1 {
		return s, errors.New("want one of -f FILE, -c, -D, -F: see coati setkey --help")
	}
	switch {
	case set("dump") && set("policies"):
		s.File, s.Text = "-DP", "spddump;"
	case set("dump"):
		s.File, s.Text = "-D", "dump;"
	case set("flush") && set("policies"):
		s.File, s.Text = "-FP", "spdflush;"
	case set("flush"):
		s.File, s.Text = "-F", "flush;"
	default:
		var data []byte
		var err error
		s.File = file
		if file == "" || file == "-" {
			s.File = standardInput
			data, err = readAll(cmd.InOrStdin())
		} else {
			data, err = readScript(file)
		}
		if err != nil {
			return s, fmt.Errorf("%s: %w", s.File, err)
		}
		s.Text = string(data)
	}
	return s, nil
}

// readScript reads a file that is not too large.
func readScript(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, plain(err)
	}
	defer func() { _ = f.Close() }()
	return readAll(f)
}

func readAll(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, legacy.MaxScript+1))
	if err != nil {
		return nil, plain(err)
	}
	if len(data) > legacy.MaxScript {
		return nil, fmt.Errorf("is larger than %d MiB: split it", legacy.MaxScript>>20)
	}
	return data, nil
}

// plain is an error without the name of the file, which stands in front already.
func plain(err error) error {
	if p, ok := errors.AsType[*os.PathError](err); ok {
		return p.Err
	}
	return err
}

package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"coati/policy/config"
	"coati/policy/legacy"
)

func newConvert() *cobra.Command {
	c := &cobra.Command{
		Use:   "convert FILE...",
		Short: "write Coati's own file for those of other programs",
		Long: `Reads the files as coati run would, and prints Coati's own file for them: a racoon.conf with the setkey scripts
that have its policies, an ipsec.conf with its secrets. What could not be carried over is said as "lost" on stderr, as file:line: directive: message.

Keys are never part of the file. With --output they are written to files of their own beside it, which only their
owner may read; without, it is said where each of them stands. No file is ever overwritten.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, files []string) error { return convert(cmd, files) },
	}
	c.Flags().StringP("output", "o", "", "write to `FILE`, and keys to files beside it")
	formatFlags(c)
	return c
}

func convert(cmd *cobra.Command, files []string) error {
	from, err := newSources(cmd, files)
	if err != nil {
		return err
	}
	for _, f := range from.native {
		return unusable(fmt.Errorf("%s: is no file of another program: coati check looks for faults in it", f))
	}
	if !from.negotiates() {
		return unusable(errors.New("scripts of setkey's have no other form: coati run --config takes them as they are"))
	}
	_, _, faults := from.load()
	for _, f := range faults {
		fmt.Fprintln(cmd.ErrOrStderr(), f)
	}
	if config.Failed(faults) {
		return unusable(nil)
	}
	script, _ := from.script()
	converted, rest, _ := from.convert(script)
	if rest != nil && len(rest.Operations) > 0 {
		for _, op := range rest.Operations {
			f := config.Fault{File: op.File, Line: op.Line, Severity: config.Lost, Message: op.Verb.String() + ": the native file has no words for it: keep the script, and name both files with coati run"}
			fmt.Fprintln(cmd.ErrOrStderr(), f)
		}
	}
	output, _ := cmd.Flags().GetString("output")
	if output == "" {
		return failed(printConverted(cmd, converted))
	}
	return failed(writeConverted(output, converted))
}

func printConverted(cmd *cobra.Command, converted []*legacy.Converted) error {
	for _, c := range converted {
		for _, name := range slices.Sorted(maps.Keys(c.KeyFrom)) {
			fmt.Fprintf(cmd.ErrOrStderr(), "%s: lost: the key is not printed: write it to %s beside the file, or say --output\n", c.KeyFrom[name], name)
		}
		if _, err := cmd.OutOrStdout().Write(c.Text); err != nil {
			return err
		}
	}
	return nil
}

// writeConverted writes the keys first: a file without them would be of no use.
func writeConverted(output string, converted []*legacy.Converted) error {
	var text []byte
	for _, c := range converted {
		text = append(text, c.Text...)
		for _, name := range slices.Sorted(maps.Keys(c.Secrets)) {
			key := hex.AppendEncode([]byte("0x"), c.Secrets[name].Reveal())
			err := writeNew(filepath.Join(filepath.Dir(output), name), append(key, '\n'), 0o600)
			clear(key)
			if err != nil {
				return err
			}
		}
		for _, name := range slices.Sorted(maps.Keys(c.Files)) {
			if err := writeNew(filepath.Join(filepath.Dir(output), name), c.Files[name].Reveal(), 0o600); err != nil {
				return err
			}
		}
	}
	return writeNew(output, text, 0o644)
}

func writeNew(name string, data []byte, mode os.FileMode) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("%s: %w", name, plain(err))
	}
	n, err := f.Write(data)
	if err == nil && n < len(data) {
		err = io.ErrShortWrite
	}
	return errors.Join(err, f.Close())
}

package config

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"coati/policy"
)

// pskFile is a file of a pre-shared key as it was read: once, however many tunnels name it.
type pskFile struct {
	secret  policy.Secret
	warning string
	err     error
}

// psk reads a pre-shared key. The path is absolute; symbolic links are followed, and what is checked is the file
// that was opened.
func (l *loader) psk(path string) *pskFile {
	if p, ok := l.psks[path]; ok {
		return p
	}
	p := &pskFile{}
	var data []byte
	if data, p.err = readSecretFile(path, l.config.Gateway.SecretsPermissions); p.err == nil {
		p.secret, p.warning, p.err = decodePSK(data)
	}
	l.psks[path] = p
	return p
}

func readSecretFile(path string, check SecretsPermissions) ([]byte, error) {
	// Opening a device may have effects, so it is looked at first. O_NONBLOCK: nor may a pipe that took the file's place
	// meanwhile hold us up.
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, errors.New("is no ordinary file")
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, plainError(err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, plainError(err)
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("is no ordinary file")
	}
	if check == SecretsStrict {
		if err := checkOwner(info); err != nil {
			return nil, err
		}
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxPSKFile+1))
	if err != nil {
		return nil, plainError(err)
	}
	if len(data) > MaxPSKFile {
		return nil, fmt.Errorf("is larger than %d KiB", MaxPSKFile>>10)
	}
	return data, nil
}

func checkOwner(info fs.FileInfo) error {
	const otherwise = `or set secrets-permissions = "any" in [gateway]`
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("others may use it (mode %04o): run chmod 600, %s", mode, otherwise)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("its owner is unknown: " + otherwise)
	}
	if uid := os.Geteuid(); st.Uid != 0 && int(st.Uid) != uid {
		return fmt.Errorf("it belongs to user %d: run chown %d, %s", st.Uid, uid, otherwise)
	}
	return nil
}

// decodePSK reads the content of a file: 0x and hexadecimal digits, 0s and base64, or else the text itself. One
// newline at the end belongs to the file and not to the key.
func decodePSK(data []byte) (policy.Secret, string, error) {
	text, _ := bytes.CutSuffix(data, []byte("\n"))
	text, _ = bytes.CutSuffix(text, []byte("\r"))
	if len(text) == 0 {
		return policy.Secret{}, "", errors.New("is empty: it must hold the pre-shared key")
	}
	if digits, ok := bytes.CutPrefix(text, []byte("0x")); ok {
		b := make([]byte, hex.DecodedLen(len(digits)))
		if _, err := hex.Decode(b, digits); err != nil || len(b) == 0 {
			return policy.Secret{}, "", errors.New("starts with 0x but what follows is not hexadecimal, two digits an octet")
		}
		return policy.NewSecret(b), "", nil
	}
	if digits, ok := bytes.CutPrefix(text, []byte("0s")); ok {
		b := make([]byte, base64.StdEncoding.DecodedLen(len(digits)))
		n, err := base64.StdEncoding.Decode(b, digits)
		if err != nil || n == 0 {
			return policy.Secret{}, "", errors.New("starts with 0s but what follows is not base64")
		}
		return policy.NewSecret(b[:n:n]), "", nil
	}
	warning := ""
	switch {
	case bytes.ContainsAny(text, "\r\n"):
		warning = "has more than one line, all of which are the key"
	case text[0] == ' ' || text[0] == '\t' || text[len(text)-1] == ' ' || text[len(text)-1] == '\t':
		warning = "begins or ends with a blank, which is part of the key"
	}
	return policy.NewSecret(bytes.Clone(text)), warning, nil
}

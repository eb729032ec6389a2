package batch

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// The kernels. Generic and AESNI are both Go's own crypto/cipher, which looks for the processor's AES instructions by
// itself; the names tell what it finds.
const (
	Generic = "generic"
	AESNI   = "aesni"
	VAES256 = "vaes256"
	VAES512 = "vaes512"
)

// available lists what this machine has, best first; at its end are always Go's own ciphers.
var available = kernels()

var chosen, errChosen = choose(os.Getenv("COATI_CPU"), available)

// Kernel is the name of what seals and opens AES-GCM in this process: the best that the machine has, or what the
// environment's COATI_CPU says. The error, if any, says why COATI_CPU was not followed.
func Kernel() (string, error) { return chosen, errChosen }

// Kernels lists the kernels that this machine can run, best first.
func Kernels() []string { return slices.Clone(available) }

func choose(wish string, available []string) (string, error) {
	switch {
	case wish == "":
		return available[0], nil
	case slices.Contains(available, wish):
		return wish, nil
	case wish == AESNI || wish == VAES256 || wish == VAES512:
		return available[0], fmt.Errorf("this machine has no %s: %s is used; COATI_CPU may be one of: %s", wish, available[0], strings.Join(available, ", "))
	}
	return available[0], fmt.Errorf("COATI_CPU=%q is unknown: %s is used; it may be one of: %s", wish, available[0], strings.Join(available, ", "))
}

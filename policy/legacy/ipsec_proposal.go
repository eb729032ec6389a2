package legacy

import (
	"regexp"
	"strings"
)

// The names that pluto and strongSwan have for algorithms.

var plutoNames = map[string]string{
	"aes": "aes128", "aes_cbc": "aes128", "aes_cbc128": "aes128", "aes_cbc192": "aes192", "aes_cbc256": "aes256", "sha": "sha1", "sha2": "sha256", "sha2_256": "sha256", "sha2_384": "sha384", "sha2_512": "sha512",
	"hmac_sha1": "sha1", "hmac_sha2_256": "sha256", "hmac_sha2_384": "sha384", "hmac_sha2_512": "sha512", "hmac_md5": "md5", "3des_cbc": "3des",
	"dh1": "modp768", "dh2": "modp1024", "dh5": "modp1536", "dh14": "modp2048", "dh15": "modp3072", "dh16": "modp4096", "dh17": "modp6144", "dh18": "modp8192",
	"dh19": "ecp256", "dh20": "ecp384", "dh21": "ecp521", "dh22": "modp1024s160", "dh23": "modp2048s224", "dh24": "modp2048s256", "dh31": "x25519",
	"curve25519": "x25519", "cast": "cast128", "blowfish": "blowfish128", "serpent": "serpent128", "twofish": "twofish128", "camellia": "camellia128", "aes_ctr": "aes128ctr", "aes_xcbc": "aesxcbc", "aes_cmac": "aescmac",
	"chacha20_poly1305": "chacha20poly1305", "null": "null", "none": "",
}

// combined are pluto's spellings of combined modes: aes_gcm256, aes_gcm_c128, aes_gcm_16_256, aes_ccm.
var combined = regexp.MustCompile(`^aes_(gcm|ccm)(?:_(a|b|c|8|12|16))?(?:_?(128|192|256))?$`)

func algorithmKeyword(word string) string {
	word = strings.ToLower(word)
	if k, ok := plutoNames[word]; ok {
		return k
	}
	if m := combined.FindStringSubmatch(word); m != nil {
		icv := map[string]string{"": "16", "a": "8", "b": "12", "c": "16", "8": "8", "12": "12", "16": "16"}[m[2]]
		bits := m[3]
		if bits == "" {
			bits = "128"
		}
		return "aes" + bits + m[1] + icv
	}
	return word
}

// suites cuts a list of proposals into policy's spelling: "aes128-sha1;modp1024, aes256-sha2_256!" and
// "aes256+aes128-sha2-dh14".
func suites(list string) [][]string {
	var out [][]string
	list = strings.TrimSuffix(strings.TrimSpace(list), "!")
	for text := range strings.SplitSeq(list, ",") {
		var words []string
		for _, w := range strings.FieldsFunc(text, func(c rune) bool { return strings.ContainsRune("-;+ \t", c) }) {
			if k := algorithmKeyword(w); k != "" {
				words = append(words, k)
			}
		}
		if len(words) > 0 {
			out = append(out, words)
		}
	}
	return out
}

func isGroup(word string) bool {
	return strings.HasPrefix(word, "modp") || strings.HasPrefix(word, "ecp") || strings.HasPrefix(word, "x25519") || strings.HasPrefix(word, "x448") ||
		strings.HasPrefix(word, "mlkem") || strings.HasPrefix(word, "dh") || strings.HasPrefix(word, "ke")
}

// groupOf is the first key exchange of a list of suites; empty: there is none.
func groupIn(list [][]string) string {
	for _, words := range list {
		for _, w := range words {
			if isGroup(w) {
				return w
			}
		}
	}
	return ""
}

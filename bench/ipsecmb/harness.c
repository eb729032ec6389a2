// Intel's multi-buffer library, one turn for each line read: TRANSFORM OPEN OCTETS BATCH COUNT NANOSECONDS. It answers with the
// octets of text and the nanoseconds of processor time, or "no" for what it does not know. Packets are what coati bench crypto
// makes: COUNT batches, head, text and tag behind each other. GCM is single calls, the rest its job interface, flushed after
// each batch. When opening, what comes out is opened again: the library does not compare tags.
//
//	gcc -O2 harness.c -o harness -lIPSec_MB && echo aes128gcm16 0 1408 32 11 4000000 | ./harness
#include <intel-ipsec-mb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct transform {
	const char *name;
	int bits, head, tag;
	IMB_CIPHER_MODE cipher;
	IMB_HASH_ALG hash;
};

static const struct transform transforms[] = {
	{"aes128gcm16", 128, 8, 16, IMB_CIPHER_GCM, IMB_AUTH_AES_GMAC},
	{"aes192gcm16", 192, 8, 16, IMB_CIPHER_GCM, IMB_AUTH_AES_GMAC},
	{"aes256gcm16", 256, 8, 16, IMB_CIPHER_GCM, IMB_AUTH_AES_GMAC},
	{"chacha20poly1305", 256, 8, 16, IMB_CIPHER_CHACHA20_POLY1305, IMB_AUTH_CHACHA20_POLY1305},
	{"aes128-sha1", 128, 24, 12, IMB_CIPHER_CBC, IMB_AUTH_HMAC_SHA_1},
	{"aes128-sha256", 128, 24, 16, IMB_CIPHER_CBC, IMB_AUTH_HMAC_SHA_256},
	{"aes256-sha256", 256, 24, 16, IMB_CIPHER_CBC, IMB_AUTH_HMAC_SHA_256},
	{"aes256-sha512", 256, 24, 32, IMB_CIPHER_CBC, IMB_AUTH_HMAC_SHA_512},
};

static IMB_MGR *m;
static uint8_t key[32];
static struct gcm_key_data gcm;
static struct gcm_context_data context;
static DECLARE_ALIGNED(uint32_t enc[60], 64);
static DECLARE_ALIGNED(uint32_t dec[60], 64);
static DECLARE_ALIGNED(uint8_t inner[64], 64);
static DECLARE_ALIGNED(uint8_t outer[64], 64);

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

// prepare makes the keys as coati bench crypto does: the cipher's 0, 1, 2, the hash's zeros.
static void prepare(const struct transform *t)
{
	uint8_t pads[2][128];
	for (int i = 0; i < 32; i++)
		key[i] = i;
	if (t->cipher == IMB_CIPHER_GCM) {
		if (t->bits == 128)
			IMB_AES128_GCM_PRE(m, key, &gcm);
		else if (t->bits == 192)
			IMB_AES192_GCM_PRE(m, key, &gcm);
		else
			IMB_AES256_GCM_PRE(m, key, &gcm);
		return;
	}
	if (t->cipher != IMB_CIPHER_CBC)
		return;
	if (t->bits == 128)
		IMB_AES_KEYEXP_128(m, key, enc, dec);
	else
		IMB_AES_KEYEXP_256(m, key, enc, dec);
	memset(pads[0], 0x36, 128);
	memset(pads[1], 0x5c, 128);
	if (t->hash == IMB_AUTH_HMAC_SHA_1) {
		IMB_SHA1_ONE_BLOCK(m, pads[0], inner);
		IMB_SHA1_ONE_BLOCK(m, pads[1], outer);
	} else if (t->hash == IMB_AUTH_HMAC_SHA_256) {
		IMB_SHA256_ONE_BLOCK(m, pads[0], inner);
		IMB_SHA256_ONE_BLOCK(m, pads[1], outer);
	} else {
		IMB_SHA512_ONE_BLOCK(m, pads[0], inner);
		IMB_SHA512_ONE_BLOCK(m, pads[1], outer);
	}
}

static void gcm_call(const struct transform *t, int open, uint8_t *p, int size)
{
	uint8_t *text = p + t->head, iv[12] = {0}, tag[16];
	uint8_t *to = open ? tag : text + size; // the tag that came with the packet stays
	iv[0] = p[0];
#define CALL(BITS) \
	if (open) \
		IMB_AES##BITS##_GCM_DEC(m, &gcm, &context, text, text, size, iv, p, t->head, to, 16); \
	else \
		IMB_AES##BITS##_GCM_ENC(m, &gcm, &context, text, text, size, iv, p, t->head, to, 16)
	if (t->bits == 128) {
		CALL(128);
	} else if (t->bits == 192) {
		CALL(192);
	} else {
		CALL(256);
	}
}

static int finish(IMB_JOB *j)
{
	int done = 0;
	for (; j; j = IMB_GET_COMPLETED_JOB(m)) {
		if (j->status != IMB_STATUS_COMPLETED) {
			fprintf(stderr, "a job ended with status %d\n", j->status);
			exit(1);
		}
		done++;
	}
	return done;
}

static void job_batch(const struct transform *t, int open, uint8_t **p, int size, int batch)
{
	static uint8_t spare[64];
	int done = 0;
	for (int i = 0; i < batch; i++) {
		IMB_JOB *j = IMB_GET_NEXT_JOB(m);
		uint8_t *text = p[i] + t->head;
		memset(j, 0, sizeof *j);
		j->cipher_mode = t->cipher;
		j->hash_alg = t->hash;
		j->cipher_direction = open ? IMB_DIR_DECRYPT : IMB_DIR_ENCRYPT;
		j->chain_order = open ? IMB_ORDER_HASH_CIPHER : IMB_ORDER_CIPHER_HASH;
		j->src = p[i];
		j->dst = text;
		j->key_len_in_bytes = t->bits / 8;
		j->cipher_start_src_offset_in_bytes = t->head;
		j->msg_len_to_cipher_in_bytes = size;
		j->auth_tag_output = open ? spare : text + size;
		j->auth_tag_output_len_in_bytes = t->tag;
		if (t->cipher == IMB_CIPHER_CBC) {
			j->enc_keys = enc;
			j->dec_keys = dec;
			j->iv = p[i] + 8;
			j->iv_len_in_bytes = 16;
			j->hash_start_src_offset_in_bytes = 0;
			j->msg_len_to_hash_in_bytes = t->head + size;
			j->u.HMAC._hashed_auth_key_xor_ipad = inner;
			j->u.HMAC._hashed_auth_key_xor_opad = outer;
		} else {
			j->enc_keys = key;
			j->dec_keys = key;
			j->iv = spare + 16;
			j->iv_len_in_bytes = 12;
			j->hash_start_src_offset_in_bytes = t->head;
			j->msg_len_to_hash_in_bytes = size;
			j->u.CHACHA20_POLY1305.aad = p[i];
			j->u.CHACHA20_POLY1305.aad_len_in_bytes = t->head;
		}
		done += finish(IMB_SUBMIT_JOB(m));
	}
	for (IMB_JOB *j; (j = IMB_FLUSH_JOB(m));)
		done += finish(j);
	if (done != batch) {
		fprintf(stderr, "%d of %d jobs came back\n", done, batch);
		exit(1);
	}
}

static void pass(const struct transform *t, int open, uint8_t **p, int size, int batch, int n)
{
	for (int i = 0; i < n; i += batch) {
		if (t->cipher != IMB_CIPHER_GCM)
			job_batch(t, open, p + i, size, batch);
		else
			for (int k = 0; k < batch; k++)
				gcm_call(t, open, p[i + k], size);
	}
}

static void turn(const struct transform *t, int open, int size, int batch, int count, double least)
{
	int n = batch * count;
	uint8_t **p = malloc(n * sizeof *p);
	double took = 0, octets = 0;
	prepare(t);
	for (int i = 0; i < n; i++) {
		p[i] = calloc(1, t->head + size + 64);
		p[i][0] = i;
	}
	pass(t, open, p, size, batch, n); // not counted: it fills the caches
	while (took < least) {
		double begin = now();
		pass(t, open, p, size, batch, n);
		took += now() - begin;
		octets += (double)n * size;
	}
	printf("%.0f %.0f\n", octets, took);
	for (int i = 0; i < n; i++)
		free(p[i]);
	free(p);
}

int main(void)
{
	char name[32];
	int open, size, batch, count;
	double least;
	IMB_ARCH arch;
	m = alloc_mb_mgr(0);
	if (!m)
		return 1;
	init_mb_mgr_auto(m, &arch);
	setvbuf(stdout, NULL, _IOLBF, 0);
	while (scanf("%31s %d %d %d %d %lf", name, &open, &size, &batch, &count, &least) == 6) {
		const struct transform *t = NULL;
		for (unsigned i = 0; i < sizeof transforms / sizeof *transforms; i++)
			if (!strcmp(name, transforms[i].name))
				t = &transforms[i];
		if (t)
			turn(t, open, size, batch, count, least);
		else
			puts("no");
	}
	return 0;
}

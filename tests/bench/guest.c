// Copyright (C) 2026 virtfleet contributors
// SPDX-License-Identifier: GPL-3.0-or-later
//
// The first process of a guest that is measured: it loads the modules m00, m01 and so on, does what
// the words of the kernel's command line ask for, says the figures and turns the machine off.
//
//   random=SECONDS  4 KiB reads of /dev/vda at random, 32 at a time, without the page cache: reads/s
//   whole=SECONDS   1 MiB reads one after the other, the same way: MiB/s
//   send=SECONDS    bytes to port 5001 of 10.9.0.1 from 10.9.0.2: MiB/s
//   receive=SECONDS bytes from port 5002, the other way round: MiB/s
//   idle=1          nothing, for ever

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { DEPTH = 32, SMALL = 4096, LARGE = 1 << 20, PIECE = 128 << 10 };

static void end(void)
{
	reboot(RB_POWER_OFF);
	pause();
}

static void must(long result, const char *what)
{
	if (result < 0) {
		printf("bench: FAILED %s: %m\n", what);
		end();
	}
}

static double now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec + at.tv_nsec / 1e9;
}

static int appears(const char *path, int flags)
{
	int fd = -1;

	for (int tries = 0; tries < 1000 && fd < 0; tries++) {
		fd = open(path, flags);
		if (fd < 0)
			usleep(10000);
	}
	must(fd, path);
	return fd;
}

static uint64_t size_of(int fd)
{
	off_t size = lseek(fd, 0, SEEK_END);

	must(size, "size of the disk");
	return size;
}

static void submit(aio_context_t context, struct iocb *block, uint64_t places)
{
	static uint64_t state = 88172645463325252ull;  // xorshift64

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	block->aio_offset = state % places * SMALL;
	must(syscall(SYS_io_submit, context, 1, &block), "io_submit");
}

static double random_reads(double seconds)
{
	static struct iocb blocks[DEPTH];
	struct io_event events[DEPTH];
	aio_context_t context = 0;
	int fd = appears("/dev/vda", O_RDONLY | O_DIRECT);
	uint64_t places = size_of(fd) / SMALL, done = 0;
	char *buffer = aligned_alloc(SMALL, DEPTH * SMALL);
	double begin = now(), spent;

	must(syscall(SYS_io_setup, DEPTH, &context), "io_setup");
	for (int i = 0; i < DEPTH; i++) {
		blocks[i].aio_fildes = fd;
		blocks[i].aio_lio_opcode = IOCB_CMD_PREAD;
		blocks[i].aio_buf = (uintptr_t)(buffer + i * SMALL);
		blocks[i].aio_nbytes = SMALL;
		blocks[i].aio_data = i;
		submit(context, &blocks[i], places);
	}
	while ((spent = now() - begin) < seconds) {
		long got = syscall(SYS_io_getevents, context, 1, DEPTH, events, NULL);

		must(got, "io_getevents");
		for (long i = 0; i < got; i++) {
			must(events[i].res == SMALL ? 0 : -1, "read");
			submit(context, &blocks[events[i].data], places);
		}
		done += got;
	}
	return done / spent;
}

static double whole_reads(double seconds)
{
	int fd = appears("/dev/vda", O_RDONLY | O_DIRECT);
	uint64_t places = size_of(fd) / LARGE, done = 0;
	char *buffer = aligned_alloc(SMALL, LARGE);
	double begin = now();

	while (now() - begin < seconds) {
		ssize_t got = pread(fd, buffer, LARGE, done % places * LARGE);

		must(got == LARGE ? 0 : -1, "read");
		done++;
	}
	return done / (now() - begin);
}

static int connected(int port)
{
	struct sockaddr_in there = {.sin_family = AF_INET, .sin_port = htons(port)};
	struct ifreq request = {.ifr_name = "eth0"};
	struct sockaddr_in *mine = (struct sockaddr_in *)&request.ifr_addr;
	int fd = socket(AF_INET, SOCK_STREAM, 0), result = -1;

	must(fd, "socket");
	mine->sin_family = AF_INET;
	inet_aton("10.9.0.2", &mine->sin_addr);
	for (int tries = 0; tries < 1000 && result < 0; tries++) {
		result = ioctl(fd, SIOCSIFADDR, &request);
		if (result < 0)
			usleep(10000);
	}
	must(result, "address");
	inet_aton("255.255.255.0", &mine->sin_addr);
	must(ioctl(fd, SIOCSIFNETMASK, &request), "netmask");
	must(ioctl(fd, SIOCGIFFLAGS, &request), "flags");
	request.ifr_flags |= IFF_UP;
	must(ioctl(fd, SIOCSIFFLAGS, &request), "up");
	inet_aton("10.9.0.1", &there.sin_addr);
	must(connect(fd, (struct sockaddr *)&there, sizeof there), "connect");
	return fd;
}

static double moved(int fd, double seconds, int outwards)
{
	static char piece[PIECE];
	double begin = now();
	uint64_t done = 0;

	while (now() - begin < seconds) {
		ssize_t got = outwards ? write(fd, piece, PIECE) : read(fd, piece, PIECE);

		must(got, "transfer");
		done += got;
	}
	return done / (now() - begin) / (1 << 20);
}

static double sent(double seconds)
{
	return moved(connected(5001), seconds, 1);
}

static double received(double seconds)
{
	return moved(connected(5002), seconds, 0);
}

int main(void)
{
	static const struct {
		const char *word;
		double (*run)(double);
	} jobs[] = {{"random=", random_reads}, {"whole=", whole_reads}, {"send=", sent}, {"receive=", received}};
	char line[4096] = "", path[16];

	setvbuf(stdout, NULL, _IOLBF, 0);
	mkdir("/proc", 0755);
	must(mount("proc", "/proc", "proc", 0, NULL), "proc");
	must(mount("dev", "/dev", "devtmpfs", 0, NULL), "dev");
	for (int i = 0;; i++) {
		snprintf(path, sizeof path, "/m%02d", i);
		int fd = open(path, O_RDONLY);

		if (fd < 0)
			break;
		must(syscall(SYS_finit_module, fd, "", 0), path);
		close(fd);
	}
	FILE *file = fopen("/proc/cmdline", "r");
	if (!file || !fgets(line, sizeof line, file))
		must(-1, "cmdline");
	for (char *word = strtok(line, " \n"); word; word = strtok(NULL, " \n")) {
		if (!strncmp(word, "idle=", 5)) {
			printf("bench: idle 1\n");
			for (;;)
				pause();
		}
		for (unsigned i = 0; i < sizeof jobs / sizeof *jobs; i++) {
			size_t length = strlen(jobs[i].word);

			if (!strncmp(word, jobs[i].word, length))
				printf("bench: %.*s %.3f\n", (int)length - 1, word,
				       jobs[i].run(atof(word + length)));
		}
	}
	end();
}

/* Looks up each line of its input, and prints the addresses, or why there are none. */
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

int main(void)
{
	char name[256], text[64];

	setvbuf(stdout, NULL, _IOLBF, 0);
	while (fgets(name, sizeof name, stdin)) {
		struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *all, *a;
		int error;

		name[strcspn(name, "\n")] = '\0';
		error = getaddrinfo(name, NULL, &hints, &all);
		if (error) {
			puts(gai_strerror(error));
			continue;
		}
		for (a = all; a; a = a->ai_next)
			if (!getnameinfo(a->ai_addr, a->ai_addrlen, text, sizeof text, NULL, 0, NI_NUMERICHOST))
				printf("%s ", text);
		puts("");
		freeaddrinfo(all);
	}
	return 0;
}

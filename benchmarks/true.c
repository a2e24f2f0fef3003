/* The payload of every whole-command row: a static program that does nothing. */
int main(void)
{
	return 0;
}

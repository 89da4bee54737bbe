/* Each rank hands four megabytes to the next, and says who it is: mpicc -o ring ring.c */
#include <mpi.h>
#include <stdio.h>

enum { COUNT = 1 << 20 };
static int out[COUNT], in[COUNT];

int main(int argc, char **argv)
{
    int rank, size, length, wrong = 0, all;
    char node[MPI_MAX_PROCESSOR_NAME];

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MPI_Get_processor_name(node, &length);
    int left = (rank + size - 1) % size, right = (rank + 1) % size;
    for (int i = 0; i < COUNT; i++)
        out[i] = rank + i;
    MPI_Sendrecv(out, COUNT, MPI_INT, right, 0, in, COUNT, MPI_INT, left, 0, MPI_COMM_WORLD,
                 MPI_STATUS_IGNORE);
    for (int i = 0; i < COUNT; i++)
        wrong += in[i] != left + i;
    MPI_Allreduce(&wrong, &all, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    printf("rank %d of %d on %s, %d wrong\n", rank, size, node, all);
    MPI_Finalize();
    return all != 0;
}

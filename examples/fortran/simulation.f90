!> The simulation of examples/c/simulation.c: each step compresses the field, one is read back and checked.
program simulation
  use, intrinsic :: iso_c_binding
  use residuum
  implicit none

  integer, parameter :: n_columns = 240, n_rows = 120, n_steps = 20, read_back = 14
  real(c_double), parameter :: bound_kelvin = 0.01d0
  real(c_float), parameter :: wind = 0.4, diffusivity = 0.1

  type :: stored_step
    integer(c_int8_t), allocatable :: bytes(:)
  end type

  type(residuum_context) :: context
  type(stored_step) :: steps(n_steps)
  real(c_float) :: field(n_columns, n_rows), kept(n_columns, n_rows), restored(n_columns, n_rows)
  real(c_float) :: west(n_columns, n_rows), laplacian(n_columns, n_rows)
  integer(c_int8_t), allocatable :: buffer(:)
  integer(c_int64_t), allocatable :: lens(:)
  integer(c_size_t) :: capacity, n_bytes, total
  real(c_double) :: allowed, largest_error
  integer :: i, j, s

  call check(residuum_open(context))
  call check(residuum_bound_set(context, residuum_abs, bound_kelvin))
  call check(residuum_effort_set(context, residuum_fast))
  call check(residuum_fill_unset(context))
  call check(residuum_tile_bytes_set(context, 2_c_int64_t**20))
  call check(residuum_max_bytes(context, field, capacity))
  allocate (buffer(capacity))

  do j = 1, n_rows
    do i = 1, n_columns
      field(i, j) = real(280 - 0.2 * abs(j - n_rows / 2) &
          + 15 * exp(-((i - n_columns / 4) / 20.0)**2 - ((j - n_rows / 2) / 12.0)**2), c_float)
    end do
  end do

  total = 0
  do s = 1, n_steps
    call check(residuum_pack(context, field, buffer, n_bytes))
    steps(s)%bytes = buffer(:n_bytes)
    total = total + n_bytes
    if (s == read_back) kept = field
    call step(field)
  end do

  associate (archive => steps(read_back)%bytes)
    n_bytes = size(archive, kind=c_size_t)
    call check(residuum_shape(context, archive, n_bytes, lens, allowed))
    if (any(lens /= shape(field))) error stop 'the archive holds something else'
    call check(residuum_unpack(context, archive, n_bytes, restored))
    ! Half an archive is refused, with a message.
    if (residuum_unpack(context, archive, n_bytes / 2, restored) /= residuum_corrupt) &
        error stop 'half an archive was taken'
    if (len(residuum_message(context)) == 0) error stop 'an error without a message'
    call check(residuum_unpack(context, archive, n_bytes, restored))
  end associate
  largest_error = maxval(abs(real(restored, c_double) - real(kept, c_double)))
  print '(i0, a, i0, a, i0)', n_steps, ' steps, ', n_steps * size(field) * 4, ' bytes of values in ', total
  print '(a, i0, a, es10.3, a, es10.3, a)', 'step ', read_back, ': largest error ', largest_error, ' K, bound ', allowed, ' K'
  call residuum_close(context)
  if (.not. largest_error <= bound_kelvin) error stop 'a value left its bound'

contains

  subroutine step(field)
    real(c_float), intent(inout) :: field(:, :)
    west = cshift(field, -1, 1)
    laplacian = west + cshift(field, 1, 1) - 4 * field
    laplacian(:, 2:) = laplacian(:, 2:) + field(:, :n_rows - 1)
    laplacian(:, 1) = laplacian(:, 1) + field(:, 1)
    laplacian(:, :n_rows - 1) = laplacian(:, :n_rows - 1) + field(:, 2:)
    laplacian(:, n_rows) = laplacian(:, n_rows) + field(:, n_rows)
    field = field - wind * (field - west) + diffusivity * laplacian
  end subroutine

  subroutine check(status)
    integer(c_int32_t), intent(in) :: status
    if (status /= residuum_ok) then
      print '(a)', residuum_message(context)
      error stop 1
    end if
  end subroutine
end program
